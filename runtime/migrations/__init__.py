"""Changes of the schema, oldest first: each stands alone, whatever the code around it becomes."""
