"""Code that tests share: commands run in this process, small models, files as other libraries write them."""
