"""What people see of FaceSnap inside a WebUI."""
