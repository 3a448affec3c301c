"""The demo, and the phantom cases that it and the tests run on."""
