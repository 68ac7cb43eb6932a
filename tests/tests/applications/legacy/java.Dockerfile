FROM stack-java
RUN ln -sf /usr/lib/jvm/default-java/bin/java /usr/bin/java
