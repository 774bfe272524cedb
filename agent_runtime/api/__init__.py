"""Floor 4: the HTTP door and the views. One module per resource; ``auth.ACCESS`` says who may use which."""
