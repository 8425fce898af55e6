"""What leaves the house: a run's model in forms that other programs take."""
