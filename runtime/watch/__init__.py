"""`fillbook watch`: what the bus says, on one screen that renews itself."""
