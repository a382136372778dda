"""How training goes. Knows no notebook, no widget and no sink."""
