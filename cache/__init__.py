"""What the two stages share: recipes, feature files and stores of them."""
