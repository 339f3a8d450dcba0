"""What was found, as tables for people and JSON for programs. Base units are converted here and nowhere else."""
