"""The same loss on every layout, shown with processes of this machine that talk through gloo."""
