"""A load test: closed and open loop, HDR histograms, and a word when the client is the limit."""
