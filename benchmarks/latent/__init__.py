"""`sdedit-bench --latent`: edits of text-guided latent models, with this runtime and with alternatives."""
