"""Face detection for cheap ARM boards, and the same call on their x86 host."""
