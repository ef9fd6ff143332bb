"""Training: data, losses, the differentiable prior, the trainer, the export."""
