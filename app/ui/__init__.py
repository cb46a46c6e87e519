"""What the page of the app is made of: tabs, controls, drawings, and their styles and scripts."""
