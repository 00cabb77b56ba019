"""What a model is trained on and asked about: public text, users' private texts, and planted canaries.

Nothing here touches a model or a tokenizer; everything random is determined by a seed.
"""
