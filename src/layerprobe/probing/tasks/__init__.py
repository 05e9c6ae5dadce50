"""What a probe predicts: one of several classes, several labels at once, or numbers. One kind in each file."""
