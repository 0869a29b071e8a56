"""What a fine-tuned model answers, one class a kind of head: its loss, what its numbers mean, who asks for them."""
