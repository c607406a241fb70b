"""Choose and reuse open vision-language models from the Hugging Face Hub without trying them all."""

__version__ = "0.1.0"
