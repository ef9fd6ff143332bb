"""How the embedded model is made: data, losses, the differentiable prior, the trainer, the export to integers."""
