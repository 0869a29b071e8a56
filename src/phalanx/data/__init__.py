"""From text to samples: prepare tokenized sets once, then read them as pure functions of the sample's number."""
