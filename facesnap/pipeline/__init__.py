"""One generation, start to end: photos -> Identity -> ID tokens -> attached sampling -> scores."""
