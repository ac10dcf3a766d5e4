"""Scripts for the people who maintain the course; the library never imports them."""
