"""What training frameworks need beyond `FlatOptimizer` itself. Nothing here is imported by `import flatmin`.

- `flatmin.integrations.lightning`: `FlatModule`, for automatic optimisation in Lightning's `Trainer`.
- `flatmin.integrations.transformers`: `FlatTrainer`, Hugging Face's `Trainer`.

Lightning's manual optimisation, Lightning Fabric and Accelerate need none of it: see `examples/`.
"""
