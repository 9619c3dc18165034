"""A stand-in for the WebUIs' `modules`: only what FaceSnap uses, behaving as both hosts were measured to."""
