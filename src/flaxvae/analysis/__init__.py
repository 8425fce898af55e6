"""What a model has learnt: reads trained models, never trains."""
