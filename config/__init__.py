"""Settings, instruments and the small exact types that everything else is built from. A leaf package."""
