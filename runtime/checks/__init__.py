"""Is what is here right, and how fast is it? Parity with the reference, the doctor, tuning."""
