"""What a configuration is: composed from conf/, checked in sentences, made into objects."""
