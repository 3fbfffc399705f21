"""What a provider's refusal means: classes of errors, from statuses and from bodies of every dialect."""
