"""What a run has learnt: reads a trained model, never trains."""
