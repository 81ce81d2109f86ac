"""The next visit of a patient from earlier ones: SADM, and forecasts of the change."""
