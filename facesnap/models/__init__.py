"""The networks: Facial Attribute Mixer, ID projections, FFRNet (torch only)."""
