"""What the images are made of: pinned wheels with their hashes, licences, bills of materials."""
