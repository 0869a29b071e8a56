"""The planner, against closed forms, published figures, and the trace of the real step."""
