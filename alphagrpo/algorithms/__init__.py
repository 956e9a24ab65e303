"""The objective of AlphaGRPO as pure functions: advantages, text and image losses.

Nothing here knows of models, actors or files, and only the losses need torch: import a module, not
the package. Legend of shapes: P prompt (group), G sample of a group, B sample, L text token,
K trained SDE step, N image token, C latent channel per token.
"""
