"""What any program needs and no library gives; nothing here knows what a network is."""
