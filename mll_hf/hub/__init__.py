"""Labels, indexes and graphs on the Hub: publish, find, fetch. The only package that talks to it about them."""
