"""The camera-motion model that the package ships: what it is, how it is trained, and how well it answers."""
