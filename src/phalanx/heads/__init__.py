"""The heads of fine-tuned models, one class a kind: its loss, what its numbers mean, who asks for them."""
