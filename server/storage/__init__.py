"""What users bring: uploads, the folders made of them, and the room they take."""
