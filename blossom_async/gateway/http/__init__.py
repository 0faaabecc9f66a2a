"""What every answer is made of: errors as problems, connections and their limits, figures, readiness."""
