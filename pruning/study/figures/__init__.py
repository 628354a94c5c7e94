"""Figures of a report: built once by matplotlib, saved as SVG and PDF, and put into HTML with colours that follow the
reader's light or dark theme."""
