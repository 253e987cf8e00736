"""Tests that need Windows and Hyper-V sockets, and the Windows under Wine that has them; see README.md."""
