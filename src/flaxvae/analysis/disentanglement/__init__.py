"""How far each latent dimension stands for one factor: functions of (codes, factors)."""
