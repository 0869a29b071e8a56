"""The first five minutes: every part of Phalanx used once, on bundled novels, by a newcomer who typed one command."""
