"""What ``build_packs.py`` makes packs from: one module for each pack, and one that fetches packages."""
