"""The runs that come with edgeface: `edgeface train run NAME`."""
