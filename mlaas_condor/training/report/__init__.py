"""What is shown of a training: pictures, tables, and the page that has all of it."""
