# `just` lists these; to install it: uv tool install rust-just
set dotenv-load
set positional-arguments

_default:
    @just --list

# Train and probe: just train experiment=mnist
train *words:
    uv run scripts/train.py "$@"

# Probe checkpoints: just probe checkpoint=outputs/digits/RUN/checkpoints
probe *words:
    uv run scripts/probe.py "$@"

# Compare runs: just report runs=outputs
report *words:
    uv run scripts/report.py "$@"

# Look at a sweep, or go on with it: just sweep continue=DIR
sweep *words:
    uv run scripts/sweep.py "$@"

# List the features that probes have kept: just features unused=30d
features *words:
    uv run scripts/features.py "$@"

# Run the tests but the slow ones; pytest's own words follow
test *words:
    uv run pytest "$@"

# Format, lint, check types and imports
check:
    uv run ruff check --fix
    uv run ruff format
    uv run mypy
    uv run lint-imports

# Everything that has to hold
ci:
    bash .ci/run

# Remove what debug runs and tools have left
clean:
    rm -rf debug dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
