"""Check and measure this installation: parity with the reference, the doctor, tuning."""
