"""The loop and what it needs: optimizers, schedules, guards, metrics."""
