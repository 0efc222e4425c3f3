"""What a person asks of the chain: where is it, what failed, bring it up, show it."""
